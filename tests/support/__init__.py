"""Networks, oracles, cases, fakes and processes that several tests share."""
