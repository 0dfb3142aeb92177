"""RadGraph: entities and relations of reports, and the rewards computed from them."""
