"""Tables of Deeplake's service, kept in step with the lab's own folder."""
