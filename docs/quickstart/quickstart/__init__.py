"""A Flower app as it comes: a small convolutional network on digits, whose clients send their new weights."""
