"""What runs next to the compute: data, the training file that agents edit, and the fixed code that runs and scores it."""
