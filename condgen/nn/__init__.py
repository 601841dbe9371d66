"""Neural networks, solvers, optimizers and other numerical parts that the generator families use."""
