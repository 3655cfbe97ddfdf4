"""Records on MNIST: the smallest networks for 99% and 98%, the shortest training, and the best accuracy.

`settings.py` has the records and the candidates among which each setting was chosen. `train.py` trains them,
`timing.py` measures the shortest training in a process of its own, and `page.py` writes the tables of docs/records.md.
"""
