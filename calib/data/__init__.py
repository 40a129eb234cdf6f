"""What is measured on: pictures and texts of a data set, brought to the model's inputs."""
