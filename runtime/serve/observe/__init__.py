"""Observability of a server: one record of counts and times, shown as metrics, status page, statistics, log, traces."""
