// Arrow keys switch between the tabs, as in the ARIA pattern for tabs. Gradio's tabs only support Tab and Enter.
() => document.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || event.target.getAttribute("role") !== "tab") return;
  const tabs = [...event.target.parentElement.querySelectorAll("[role=tab]")];
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  next.click();
  next.focus();
})
