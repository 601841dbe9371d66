// An image that can be edited. See canvas.py for the format of props.value. The lower canvas shows the image, and the
// upper one the pixels that are marked for inpainting.
const options = { willReadFrequently: true };
const [image, marks] = [...element.querySelectorAll("canvas")].map((canvas) => canvas.getContext("2d", options));
const pad = marks.canvas, brush = element.querySelector("i"), color = element.querySelector("input");
let size = "1x1x1";     // the part of props.value before the colon
let position = [0, 0];  // where the keyboard paints
let last = null;        // where the mouse or finger was, while it is down
let isEdited = false;

function load() {
  let bytes;
  [size, bytes] = props.value.split(":");
  isEdited = false;
  last = null;
  const [width, height, channels] = size.split("x").map(Number);
  for (const layer of [image, marks]) Object.assign(layer.canvas, { width, height });
  const rgba = Uint8ClampedArray.from(atob(bytes), (byte) => byte.charCodeAt(0));
  image.putImageData(new ImageData(rgba, width, height), 0, 0);
  color.parentElement.hidden = channels === 1;
  if (channels === 1) color.value = "#ffffff";
  place([width / 2, height / 2].map(Math.floor));
}

function save() {
  const { width, height } = pad, all = [0, 0, width, height];
  const bytes = image.getImageData(...all).data, marked = marks.getImageData(...all).data;
  for (let alpha = 3; alpha < bytes.length; alpha += 4) bytes[alpha] = marked[alpha] > 127 ? 0 : 255;
  isEdited = true;
  props.value = `edited ${size}:${btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))}`;
  trigger("input");
}

function place(to) {
  position = to;
  Object.assign(brush.style, { left: `${(to[0] + 0.5) / pad.width * 100}%`, top: `${(to[1] + 0.5) / pad.height * 100}%` });
}

function stroke(from, to) {
  const tool = document.querySelector("#brush input:checked").value;
  if (tool !== "Inpaint") line(image, from, to, tool === "Draw" ? color.value : "#000000");
  marks.globalCompositeOperation = tool === "Inpaint" ? "source-over" : "destination-out";  // Draw and Erase remove marks
  line(marks, from, to, "#ffb000");
}

function line(layer, from, to, ink) {
  const width = document.querySelector("#thickness input").value;
  Object.assign(layer, { strokeStyle: ink, lineWidth: width, lineCap: "round" });
  layer.beginPath();
  layer.moveTo(from[0] + 0.5, from[1] + 0.5);
  layer.lineTo(to[0] + 0.51, to[1] + 0.5);  // a line without length would be invisible
  layer.stroke();
}

function pixel(event) {
  const box = pad.getBoundingClientRect();
  return [(event.clientX - box.x) / box.width * pad.width - 0.5, (event.clientY - box.y) / box.height * pad.height - 0.5];
}

pad.addEventListener("pointerdown", (event) => {
  if (event.button || !props.value) return;
  pad.setPointerCapture(event.pointerId);
  last = pixel(event);
  stroke(last, last);
});
pad.addEventListener("pointermove", (event) => {
  if (!last) return;
  for (const moved of event.getCoalescedEvents?.() ?? [event]) stroke(last, last = pixel(moved));
});
for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => { if (last) save(); last = null; });

// With the keyboard: the arrow keys move the brush, Space paints, and the arrow keys with Shift paint a line.
pad.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
  if (!move || !props.value) return;
  event.preventDefault();
  const limits = [pad.width, pad.height], from = position;
  place(from.map((number, axis) => Math.min(limits[axis] - 1, Math.max(0, number + move[axis]))));
  if (event.shiftKey || event.key === " ") {
    stroke(from, position);
    save();
  }
});

watch("value", () => {
  const wasEdited = isEdited;
  load();
  if (wasEdited) trigger("input");  // the results may belong to a stroke that was painted in the meantime
});
if (props.value) load();
