"""AWS EC2: spot and on-demand machines, by boto3 in worker threads (extra ``aws``)."""
