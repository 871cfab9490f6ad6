"""Campaigns: many searches, night after night, on whatever machines there are.

A plan is a product of targets, parameters, formats, candidates, kernels and properties: its jobs. Each round gives some
of them a slice of time, in processes of their own. What a slice found goes to the corpus, what the next one begins with
into a file, and then a line into the journal, from which a campaign that was stopped goes on.

    job         what is asked, as plain data, with a name that follows from it
    plan        the jobs of a file of TOML, or of options
    doing       a slice of a job, in this process
    worker      the process in which slices are done
    places      where: processes of this machine, a Dask cluster, any executor
    scheduling  which jobs get how much of a round
    journal     what was done, so that nothing is lost
    ledger      what the journal says of each job
    running     the loop
    comparing   two campaigns
    bisecting   the first of several builds that has a witness
"""
