"""Real models and the runs of engines on them: files that are read strictly (model, gguf, apr, dump), and what is made
of them. Nothing here is loaded by ``import diffuzz``.
"""
