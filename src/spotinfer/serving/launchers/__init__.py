"""Programs that start an engine. Run by path, never imported here: each stands alone in the engine's own Python.

They have a folder of their own since Python puts a script's folder first on its path, where ``serving/vllm.py`` would
hide the real ``vllm``.
"""
