"""What of diffuzz is installed here, and whether it works.

    packages    what the core and each extra needs, and what there is
    probes      kernels and devices, tried in processes of their own, which may hang or crash
    places      compilers, and folders where something is kept

Nothing here prints, and nothing that may hang runs in the process of the caller.
"""
