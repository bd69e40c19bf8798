-- Units of an item's holds that have lapsed but are not yet swept: they can be had.

-- migrate:up
CREATE FUNCTION holdsvc.lapsed_units(_tenant text, _sku text, _pool text, _now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  RETURN (
    SELECT coalesce(sum(l.quantity), 0) FROM reservation_line l
    WHERE hashtextextended(l.sku, hashtext(l.tenant)) = hashtextextended(_sku, hashtext(_tenant))
      AND l.sku = _sku AND l.pool = _pool AND l.tenant = _tenant AND l.expire_time <= _now
  );
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.lapsed_units FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.lapsed_units;
