-- The items of the load: one hot, one sold out, and %(count)s others, none of which runs out.
INSERT INTO holdsvc.item (
  tenant, sku, pool, display_name, capacity, remaining, oversell_limit, create_time, update_time
)
SELECT %(tenant)s, i.sku, '', i.sku, i.capacity, i.capacity, 0, now(), now()
FROM (
  VALUES ('hot', 1000000000000), ('sold-out', 0)
  UNION ALL
  SELECT 'item-' || lpad(n::text, 5, '0'), 1000000000000 FROM generate_series(0, %(count)s - 1) n
) i (sku, capacity)
ORDER BY i.sku;
