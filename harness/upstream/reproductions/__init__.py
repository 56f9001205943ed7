"""One stand-alone script per defect of Tunix, for reports to upstream.

Each runs on plain Tunix, prints what is expected and what happens, and exits
with 0 where the defect shows and with 1 where it does not.
"""
