"""A stand-in for Deeplake's managed service: its documented REST endpoints in front of a real PostgreSQL, with faults to order.

Not faithful: what the service does with a statement beyond PostgreSQL. It is stricter where the service is known to be
fragile: several statements at once, ON CONFLICT, UPDATE, and an INSERT that leaves a column out are refused.
"""
