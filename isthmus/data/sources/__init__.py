"""Readers, one file a format; `spec` turns a text such as "cifar10:test#n=500" into data."""
