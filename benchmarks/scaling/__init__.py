"""The cost model of `functional_nn.bench.scaling`, compared with what one machine can measure."""
