"""Which tile sizes a kernel takes on which SM: a cost model, its search, and the table that it gave."""
