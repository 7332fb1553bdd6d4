"""The life of one series, as durable work.

`workflow.Journey` takes a complete series in and does not let go of it until every destination has the
result or a reason is on record. `order` is what a job is about, `stations` what happens on the way,
`delivery` the way out, `job` the record of it all.
"""
