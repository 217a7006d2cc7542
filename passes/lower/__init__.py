"""From a program to regions, layouts and memory."""
