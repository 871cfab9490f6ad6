"""Targets of a model: what can only be searched once a model file is named, ``--param model=FILE``.

Every module of this folder that defines ``TARGET`` is one. ``diffuzz.targets.get`` finds them by name, but
``diffuzz.targets.names`` lists those that can be opened as they are. ``given`` is what they have in common.
"""
