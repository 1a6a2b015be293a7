"""How long training takes and how much memory it needs, beside backpropagation."""
