"""Repair along a curve: endpoints, rules that choose the point, `repair`."""
