"""xds-protos, the generated messages of the whole xDS API, as an oracle in an environment apart.

It overwrites files of other packages where it is installed, so it never enters ours.
"""
