"""Write the weights of a checkpoint to the bundle's store, converted and quantized as the graphs need them."""
