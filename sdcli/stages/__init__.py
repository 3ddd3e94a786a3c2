"""What happens to pictures after they are drawn: pictures in, pictures out, no model of the prompt needed."""
