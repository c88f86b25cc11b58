"""A finished run put to use: classify images, embed them, export the classifier, share it."""
