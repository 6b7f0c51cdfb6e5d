"""What a job leaves on disk: object names, footers, the ledger, the identity of a job, the summary."""
