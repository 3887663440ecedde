"""The files beside the weights of a written checkpoint, and the text of its model card."""
