-- What the managed service's PostgreSQL has that a plain one lacks, as far as the lab uses it: `USING deeplake` stores as a heap.
CREATE ACCESS METHOD deeplake TYPE TABLE HANDLER heap_tableam_handler;
