"""The compiled programs of a run: what is compiled, for which devices, and how programs are told apart."""
