"""What happens to images after they are drawn: images in, images out, no model of the prompt needed."""
