"""Who may be champion: the test, the judge, and the promotion."""
