SELECT @evsrc_watermark()
