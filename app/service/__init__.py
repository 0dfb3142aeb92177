"""Reports as a service: an HTTP interface for programs, with one model that writes the reports of all requests."""
