"""Reading traced and compiled programs: walking, evaluating, counting operations and bytes, compile options."""
