addEventListener('fetch', e => e.respondWith(new Response("Hello again, World!")))
