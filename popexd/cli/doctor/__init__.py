"""`popexd doctor`: what stands in the way of answering frames, and what to do about it."""
