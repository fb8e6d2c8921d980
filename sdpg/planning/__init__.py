"""What a run will take, from its parameters alone: memory, operations, hours, disk. Nothing here is a measurement."""
