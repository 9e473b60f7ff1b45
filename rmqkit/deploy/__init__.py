"""A topology onto a live broker: plan, apply, delete, replace, subscribe, run scenarios."""
