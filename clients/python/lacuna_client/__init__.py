"""Clients of a Lacuna service. `lacuna_client.contract` has the types of options and answers."""

from lacuna_client.clients import AsyncClient, Client
from lacuna_client.contract import Answer, Problem

__all__ = ["Answer", "AsyncClient", "Client", "Problem"]
