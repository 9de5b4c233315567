"""What is drawn at random, and the loss; knows no model and no data."""
