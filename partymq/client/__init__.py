"""The library for members and publishers of pull groups: consume the partitions one owns, handlers a key at a
time, publish by key."""
