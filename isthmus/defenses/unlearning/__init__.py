"""Unlearning: what turns every image alike is found on bonafide samples, and the network is taught
to ignore it.
"""
