"""Files of rows, and the values in their columns: what every reader of problems, answers and benchmarks shares."""
