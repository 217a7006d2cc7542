"""What a program is, where it comes from, and what is known about operators and targets."""
