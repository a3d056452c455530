"""What goes over the wire: topics, payloads, tensors."""
