"""Networks, solvers, optimizers and other building blocks for the generator families."""
