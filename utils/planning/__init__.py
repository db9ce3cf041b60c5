"""What a run will take, before it is started: parameters, steps, tokens, memory, and on which card it fits."""
