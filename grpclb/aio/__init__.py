"""The asyncio channel: grpc.aio.Channel over balanced subchannels."""

from __future__ import annotations

from grpclb.aio.channel import Channel, insecure_channel, secure_channel

__all__ = ["Channel", "insecure_channel", "secure_channel"]
