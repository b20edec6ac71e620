"""Dask workers as jobs of the coffea-casa facility, whose own cluster class submits to HTCondor."""

from dataclasses import replace

from looseleaf.cluster import htcondor

SYSTEM = replace(
    htcondor.SYSTEM,
    package="coffea_casa",
    cluster_class="CoffeaCasaCluster",
    submit=None,
    keyed=None,
)
