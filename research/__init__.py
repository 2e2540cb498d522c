"""The tutorial's systems, published benchmarks and peers. Not installed with the product."""
